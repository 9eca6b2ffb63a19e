"""``fusiform predict --part``: what it says, its exit codes, and the options that go with it and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fusiform.cli import commands

ROOT = Path(__file__).parents[2]
CAT = str(ROOT / "examples" / "cat.jpg")


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(
        commands, ["predict", "--threads", "1", *(str(word) for word in words)], prog_name="fusiform"
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def test_it_says_what_the_parts_hold(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (CAT, tmp_path / "none.jpg", "--out", out, "--part", "1", "--format", "jsonl")
    result = run(*words)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"fusiform: 1 of 2 images answered, in 2 parts in {out}\n" in result.stderr
    assert "fusiform: 1 images could not be read: their rows have an error\n" in result.stderr
    again = run(*words, "--strict")
    assert again.exit_code == 3
    assert f"1 of 2 images answered, in 2 parts in {out}, 2 of which were there before\n" in again.stderr
    row = json.loads((out / "part-00000.jsonl").read_text())
    assert (row["path"], row["error"], row["top"][0]["name"]) == (CAT, None, "Egyptian cat")
    assert run(*words[:4], "--part", "2", "--format", "jsonl").exit_code == 1  # begun with another --part
    assert run(tmp_path / "none.jpg", "--out", tmp_path / "b", "--part", "1").exit_code == 1  # none was answered


def test_a_shard_and_a_list_with_a_root(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("photo\ncat.jpg\ncoffee.jpg\n")
    out = tmp_path / "out"
    words = ("--out", out, "--part", "1", "--shard", "1/2", "--root", ROOT / "examples", "--column", "photo")
    result = run(tmp_path / "list.csv", *words, "--format", "jsonl", "--top", "1")
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in out.glob("part-*")] == ["part-00001.jsonl"]
    assert json.loads((out / "part-00001.jsonl").read_text())["top"][0]["name"] == "espresso"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--part", "10"), "--part writes several files: name a folder for them with --out"),
        (("--part", "0", "--out", "x"), "0 is not in the range x>=1"),
        (("--part", "9", "--out", "x", "--save", "a.png"), "--save is for few images: leave out it or --part"),
        (("--part", "9", "--out", "x", "--masks", "m"), "--masks is for few images"),
        (("--part", "9", "--out", "x", "--format", "csv"), "parts are written as parquet or jsonl, not as csv"),
        (("--part", "9", "--out", "x", "--shard", "2/2"), "'2/2' is not I/N with I from 0 to N - 1"),
        (("--part", "9", "--out", "x", "--shard", "1"), "'1' is not I/N"),
        (("--part", "9", "--out", "x", "--on", "dask"), "'dask' is not ray or ray://HOST:PORT"),
        (("--shard", "0/2"), "--shard goes with --part: add --part 10000 and a folder for --out"),
        (("--root", "x"), "--root goes with --part"),
        (("--format", "parquet"), "--format parquet goes with --part"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(CAT, *words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())
