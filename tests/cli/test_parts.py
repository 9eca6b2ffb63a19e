"""``--part`` of predict, evaluate and embed: what it says, its exit codes, and what goes with it and without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fusiform.cli import commands

ROOT = Path(__file__).parents[2]
CAT = str(ROOT / "examples" / "cat.jpg")


def run(*words: str | Path, command: str = "predict") -> Result:
    result = CliRunner().invoke(
        commands, [command, "--threads", "1", *(str(word) for word in words)], prog_name="fusiform"
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


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two photographs of two classes, and one that is none."""
    data = tmp_path / "data"
    for name, file in (("Egyptian cat", "cat.jpg"), ("espresso", "coffee.jpg")):
        (data / name).mkdir(parents=True)
        shutil.copy(ROOT / "examples" / file, data / name)
    (data / "espresso" / "broken.jpg").write_bytes(b"no image")
    return data


def test_an_evaluation_in_parts_ends_with_its_report(classes: Path, tmp_path: Path) -> None:
    model, out = "shufflenet_v2_x1_0", tmp_path / "out"

    def figures(result: Result) -> dict[str, object]:
        told = json.loads(result.stdout)
        return {key: value for key, value in told["figures"].items() if key != "seconds"}

    direct = run(model, classes, "--format", "json", command="evaluate")
    words = (model, classes, "--part", "2", "--out", out)
    first = run(*words, "--shard", "0/2", "--strict", command="evaluate")
    assert (first.exit_code, first.stdout) == (3, "")
    assert f"fusiform: 1 of 2 images answered, in 1 parts in {out}\n" in first.stderr
    assert "1 images could not be read: they count in no figure" in first.stderr
    assert f"--answers {out} in place of --part, --shard and --out prints the report" in " ".join(first.stderr.split())
    missing = run(model, classes, "--answers", out, command="evaluate")
    assert missing.exit_code == 1
    assert "lacks 1 of 2 parts (1)" in " ".join(missing.stderr.split())
    assert run(*words, "--shard", "1/2", "--strict", command="evaluate").exit_code == 0
    joined = run(model, classes, "--answers", out, "--format", "json", command="evaluate")
    whole = run(*words, "--format", "json", "--html", tmp_path / "page.html", command="evaluate")
    assert figures(joined) == figures(whole) == figures(direct)
    assert "1 of 3 pictures could not be read" in whole.stderr
    assert (tmp_path / "page.html").is_file()
    # What the report cannot have is told before the work.
    for asked in (("--unknown", classes), ("--html", tmp_path / "none" / "a.html"), ("--compare", "nothing")):
        refused = run(model, classes, "--part", "2", "--out", tmp_path / "other", *asked, command="evaluate")
        assert refused.exit_code == 1
        assert not (tmp_path / "other").exists()
    assert run(*words, "--format", "json", "--strict", command="evaluate").exit_code == 3


def test_features_in_parts_are_an_index(classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (classes, "--model", "shufflenet_v2_x1_0", "--out", out, "--part", "2")
    result = run(*words, command="embed")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"fusiform: 2 of 3 images answered, in 2 parts in {out}\n" in result.stderr
    assert "1 images could not be read: they have no features" in result.stderr
    found = run(CAT, out, "--top", "1", "--format", "json", command="search")
    assert json.loads(found.stdout)["rows"][0]["path"] == str(classes / "Egyptian cat" / "cat.jpg")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("evaluate", ("--part", "9"), "--part writes several files: name a folder for them with --out"),
        ("evaluate", ("--part", "9", "--out", "x", "--answers", "x"), "--answers does not go with --part"),
        ("evaluate", ("--part", "9", "--out", "x", "--stress"), "--stress does not go with --part"),
        ("evaluate", ("--part", "9", "--out", "x", "--calibrate", "a.onnx"), "--calibrate does not go with --part"),
        ("evaluate", ("--part", "9", "--out", "x", "--certain", "0.9"), "--certain does not go with --part"),
        ("evaluate", ("--part", "9", "--out", "x", "--per-class"), "--per-class does not go with --part"),
        ("evaluate", ("--part", "9", "--out", "x", "--threshold", "a=0.9"), "--threshold does not go with --part"),
        ("evaluate", ("--part", "9", "--out", "x", "--score", "0.5"), "--score is for a detector"),
        ("evaluate", ("--part", "9", "--out", "x", "--shard", "0/2", "--html", "a.html"), "--html is for the figures"),
        ("evaluate", ("--part", "9", "--out", "x", "--shard", "0/2", "--score", "0"), "--score is for the figures"),
        ("evaluate", ("--shard", "0/2"), "--shard goes with --part"),
        ("evaluate", ("--on", "ray"), "--on goes with --part"),
        ("embed", ("--out", "x.npz", "--shard", "0/2"), "--shard goes with --part"),
        ("embed", ("--out", "x.npz", "--root", "."), "--root goes with --part"),
        ("embed", ("--out", "x.npz", "--part", "9"), "--part writes a folder, and x.npz is called like a file"),
        ("embed", ("--out", "x", "--part", "9", "--format", "csv"), "--format is for the report of a file"),
    ],
)
def test_what_does_not_go_with_parts_of_answers_or_features_is_refused(
    command: str, words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*(("mobilenet_v2", "data") if command == "evaluate" else (CAT,)), *words, command=command)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())
