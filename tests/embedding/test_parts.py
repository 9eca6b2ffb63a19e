"""Features in parts: those of one file, over a kill and shards; an index for searches; and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusiform
from fusiform.embedding.index import Embeddings
from fusiform.embedding.parts import embed_parts
from fusiform.errors import InputError, MissingExtraError, UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = "shufflenet_v2_x1_0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, each twice, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    for name, image in (("a", "cat"), ("b", "coffee"), ("d", "coffee"), ("e", "cat")):
        shutil.copy(EXAMPLES / f"{image}.jpg", folder / f"{name}.jpg")
    (folder / "c.jpg").write_bytes(b"no image")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("part-*")}


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_two_shards_are_the_index_that_one_file_is(
    folder: Path, tmp_path: Path, form: Any, valid: Callable[..., Any]
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / "out"
    parts = [embed_parts(folder, out, MODEL, part=1, shard=(k, 2), format=form, threads=1) for k in range(2)]
    assert parts == [(out, 3, 1, 3, 0), (out, 2, 0, 2, 0)]
    assert sorted(content(out)) == [f"part-0000{k}.{form}" for k in range(5)]
    assert valid((out / "parts.json").read_text())["images"] == 5
    whole, joined = fusiform.embed(folder, MODEL, threads=1), Embeddings.load(out)
    assert joined.paths == whole.paths
    assert joined.errors == whole.errors
    assert joined.origin == whole.origin
    assert joined.file == out
    assert np.array_equal(joined.features, whole.features)
    found = fusiform.search(folder / "a.jpg", out, top=2, threads=1)
    assert [found.paths[k] for k in found.indices[0]] == [str(folder / "a.jpg"), str(folder / "e.jpg")]
    # The part of an image that cannot be read holds nothing but why.
    broken = Embeddings.load(out / f"part-00002.{form}")
    assert broken.features.shape == (0, 1024)
    assert broken.errors == whole.errors
    before = content(out)
    (out / "done-0-of-2.jsonl").unlink()  # what it holds is counted again
    (out / f"part-00003.{form}").unlink()
    assert embed_parts(folder, out, MODEL, part=1, threads=1)[1:] == (5, 1, 5, 4)
    assert content(out) == before


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is not Windows's")
def test_killed_it_goes_on_to_the_same_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import os, signal, sys, fusiform\n"
        "real = os.replace\n"
        "def kill(*names):\n"
        "    if 'part-00001' in str(names): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(*names)\n"
        "os.replace = kill\n"
        "fusiform.embed_parts(*sys.argv[1:], part=2, format='npz', threads=1)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(out), MODEL],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert ended.returncode == -9
    assert sorted(content(out)) == ["part-00000.npz"]
    with pytest.raises(InputError, match=r"lacks 2 of 3 parts \(1, 2\): run the command that began it"):
        fusiform.search(folder / "a.jpg", out)
    assert embed_parts(folder, out, MODEL, part=2, threads=1)[1:] == (5, 1, 3, 1)
    embed_parts(folder, tmp_path / "whole", MODEL, part=2, format="npz", threads=1)
    assert content(out) == content(tmp_path / "whole")
    assert not list(out.glob(".*"))


def test_what_would_not_fit_together_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    embed_parts(folder, out, MODEL, part=3, format="npz", threads=1)
    others = tmp_path / "others"  # as many
    shutil.copytree(folder, others)
    (others / min(file.name for file in others.iterdir())).rename(others / "zebra.png")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"part": 2}, "was begun with another --part, "),
        ({"fast": True}, "was begun with another --fast, "),
        ({"format": "csv"}, "written as parquet or npz, not as csv"),
        ({"model": "mobilenet_v2"}, "was begun with another model"),
        ({"sources": others}, r"with other images, "),
        ({"sources": EXAMPLES}, r"with other images \(then 5 images, now 2 images\)"),
    ]
    for given, said in cases:
        with pytest.raises(UsageError, match=said):
            embed_parts(**{"sources": folder, "out": out, "model": MODEL, "part": 3, "threads": 1, **given})
    with pytest.raises(InputError, match="was begun with fusiform embed --part, "):
        fusiform.predict_parts(folder, out, MODEL, part=3, threads=1)
    others = tmp_path / "others"
    embed_parts(folder, others, "mobilenet_v2", part=3, format="npz", threads=1)
    shutil.copy(others / "part-00001.npz", out / "part-00001.npz")
    with pytest.raises(InputError, match=r"part-00001\.npz: has features of another model than the rest"):
        Embeddings.load(out)
    (out / "part-00001.npz").write_bytes(b"half")
    with pytest.raises(InputError, match=r"part-00001\.npz: holds no features by fusiform"):
        Embeddings.load(out)
    with pytest.raises(InputError, match="images: holds no features by fusiform: fusiform embed SOURCES --part 10000"):
        Embeddings.load(folder.rename(tmp_path / "images"))
    (tmp_path / "images").rename(folder)


def test_without_pyarrow_parquet_names_the_extra(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusiform.scaling.parts.has_parquet", lambda: False)
    with pytest.raises(MissingExtraError, match=r"fusiform\[parquet\]"):
        embed_parts(folder, tmp_path / "out", MODEL, format="parquet", threads=1)
    embed_parts(folder, tmp_path / "out", MODEL, threads=1)
    assert sorted(content(tmp_path / "out")) == ["part-00000.npz"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ray starts slowly there")
def test_the_workers_of_ray_leave_the_same_parts(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    driver = (
        "import sys, ray, fusiform\n"
        "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='error')\n"
        "fusiform.embed_parts(*sys.argv[1:], part=2, format='npz', threads=1, on='ray')\n"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", driver, str(folder), str(tmp_path / "out"), MODEL],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=True,
    )
    embed_parts(folder, tmp_path / "alone", MODEL, part=2, format="npz", threads=1)
    assert content(tmp_path / "out") == content(tmp_path / "alone")
