"""Sets and unknown images of a calibrated model wherever images are answered: folders, videos, parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import fusiform
from fusiform.cli import commands
from fusiform.errors import UsageError

PROMISED = ("set", "known", "p_known", "certain")


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(commands, [str(word) for word in words], prog_name="fusiform")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def expected_of(images: Path, model: Path, certain: float | None) -> list[dict[str, Any]]:
    records = [answer.to_dict() for answer in fusiform.predict(images, model, certain=certain)]
    return [{key: record[key] for key in PROMISED} for record in records]


@pytest.mark.parametrize("certain", [None, 0.8])
def test_a_watched_folders_lines_have_them(
    calibrated: Path, noise_and_stripes: Path, tmp_path: Path, valid: Callable[..., Any], certain: float | None
) -> None:
    out = tmp_path / "answers.jsonl"
    answers = fusiform.watch(noise_and_stripes, out, calibrated, certain=certain, poll=True, threads=1)
    found = [next(answers), next(answers)]
    answers.close()
    lines = [valid(line, "watched") for line in out.read_text().splitlines()]
    assert [line["set"] for line in lines] == [answer.to_dict()["set"] for answer in found]
    assert [{key: line[key] for key in PROMISED} for line in lines] == expected_of(
        noise_and_stripes, calibrated, certain
    )
    assert [line["known"] for line in lines] == [True, False]


def test_a_watch_refuses_what_cannot_be_promised(calibrated: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images of its calibration can promise"):
        fusiform.watch(tmp_path, model=calibrated, certain=0.999)
    result = run("watch", tmp_path, "--out", tmp_path / "a.jsonl", "--certain", "99%")  # of a model without promises
    assert result.exit_code == 2
    assert "certain is for calibrated models" in result.stderr


def test_the_lines_of_frames_have_them(
    calibrated: Path, noise_and_stripes: Path, tmp_path: Path, valid: Callable[..., Any]
) -> None:
    pytest.importorskip("av")
    known = []
    for name in ("noise", "stripes"):
        clip = tmp_path / f"{name}.jpg"  # a video of one frame
        Image.open(noise_and_stripes / f"{name}.png").save(clip, quality=95)
        result = run("predict", "--video", clip, "--model", calibrated, "--format", "jsonl", "--certain", "90%")
        assert result.exit_code == 0, result.stderr
        (line,) = (valid(line, "frame") for line in result.stdout.splitlines())
        assert line["certain"] == 0.9
        assert line["set"][0] == line["top"][0]
        known.append((line["known"], line["p_known"] > 0.1))
    assert known == [(True, True), (False, False)]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_parts_have_them(calibrated: Path, noise_and_stripes: Path, tmp_path: Path, form: str) -> None:
    words = ("predict", noise_and_stripes, "--model", calibrated, "--out", tmp_path / "out", "--part", "10")
    if form == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    result = run(*words, "--format", form, "--certain", "80%")
    assert result.exit_code == 0, result.stderr
    if form == "parquet":
        rows = parquet.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    else:
        rows = [json.loads(line) for line in (tmp_path / "out" / "part-00000.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in PROMISED} for row in rows] == expected_of(noise_and_stripes, calibrated, 0.8)
    # Parts of another promise would not fit together.
    again = run(*words, "--format", form, "--certain", "90%")
    assert again.exit_code == 1
    assert "certain" in again.stderr
